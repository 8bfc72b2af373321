// The drifting bandit: four players pull the same arms, and what each decides and loses is drawn.
"use strict";

(() => {
  const { Clock, EpsilonGreedy, Grpo, UpperConfidenceBound, drawChart, randomNumbers, swatch } = anygrpo;
  const NUM_ARMS = 5;
  const NUM_PULLS = 6000;
  const PULLS_A_SECOND = 300;
  const SPACING = 20; // pulls between two points of a line
  const REWARD_STD = 0.5;
  const WINDOW = 100; // pulls of which shares are taken
  const NAMES = ["GRPO", "ε-greedy (ε = 0.1)", "UCB1", "discounted UCB (γ = 0.995)"];

  const makePlayers = (settings) => [
    new Grpo(NUM_ARMS, settings),
    new EpsilonGreedy(NUM_ARMS, 0.1),
    new UpperConfidenceBound(NUM_ARMS, REWARD_STD, 1),
    new UpperConfidenceBound(NUM_ARMS, REWARD_STD, 0.995),
  ];

  /** All players on one path of means, each with noise of its own; `settings` has the drift besides GRPO's. */
  class Race {
    constructor(settings, seed) {
      this.settings = settings;
      this.random = randomNumbers(seed);
      this.means = [Array.from({ length: NUM_ARMS }, () => 0.5 * this.normal(this.random))];
      this.players = makePlayers(settings).map((player, index) => ({
        player,
        random: randomNumbers(1000 * seed + index + 1),
        arms: [],
        regret: 0,
        regrets: [],
        shares: [],
      }));
    }

    normal(random) {
      return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    }

    /** The means of the arms at a pull; each has made a step at random since the one before. */
    meansAt(time) {
      while (this.means.length <= time) {
        this.means.push(this.means.at(-1).map((mean) => mean + this.settings.drift * this.normal(this.random)));
      }
      return this.means[time];
    }

    /** Let all play on until so many pulls. */
    playUntil(time) {
      for (const own of this.players) {
        while (own.arms.length < time) this.playOnce(own);
      }
    }

    playOnce(own) {
      const probabilities = own.player.probabilities?.();
      const arms = own.player.decide(own.random);
      const rewards = arms.map((arm) => {
        const means = this.meansAt(own.arms.length);
        if (own.arms.length % SPACING === 0) {
          own.shares.push(probabilities ?? this.recentShares(own.arms));
          own.regrets.push(own.regret);
        }
        own.arms.push(arm);
        own.regret += Math.max(...means) - means[arm];
        return means[arm] + REWARD_STD * this.normal(own.random);
      });
      own.player.learn(arms, rewards);
    }

    recentShares(arms) {
      const recent = arms.slice(-WINDOW);
      return Array.from({ length: NUM_ARMS }, (_, own) => recent.filter((arm) => arm === own).length / (recent.length || 1));
    }
  }

  /** A line of a table: a swatch, a name, and cells that are returned. */
  function addRow(body, index, name, numCells) {
    const row = body.insertRow();
    const header = document.createElement("th");
    header.scope = "row";
    header.append(swatch(index), ` ${name}`);
    row.append(header);
    return Array.from({ length: numCells }, () => row.insertCell());
  }

  function start(root) {
    const find = (name) => root.querySelector(`[data-part="${name}"]`);
    const inputs = [...root.querySelectorAll("input[type=range]")];
    const settings = {};
    const armCells = Array.from({ length: NUM_ARMS }, (_, arm) => addRow(find("arms"), arm, `arm ${arm + 1}`, 2));
    const playerCells = NAMES.map((name, index) => addRow(find("players"), index, name, 1));
    let [time, seed, race] = [0, 0, null];
    const chosen = () => race.players[Number(find("player").value)];

    function readSettings() {
      for (const input of inputs) {
        settings[input.name] = input.name === "learningRate" ? 10 ** Number(input.value) : Number(input.value);
        const shown = String(Number(settings[input.name].toPrecision(2)));
        root.querySelector(`output[for="${input.id}"]`).value = shown;
        input.setAttribute("aria-valuetext", shown);
      }
      settings.normalizes = find("normalizes").checked;
    }

    function draw() {
      const numPoints = Math.floor(Math.max(0, time - 1) / SPACING) + 1;
      const means = Array.from({ length: numPoints }, (_, point) => race.meansAt(point * SPACING));
      const { shares } = chosen();
      const perArm = (rows) => Array.from({ length: NUM_ARMS }, (_, arm) => rows.slice(0, numPoints).map((row) => row[arm]));
      const regrets = race.players.map((own) => own.regrets.slice(0, numPoints));
      const all = means.flat();
      const axis = { spacing: SPACING, end: NUM_PULLS, label: "pulls" };
      drawChart(find("means"), perArm(means), { ...axis, low: Math.min(-1, ...all), high: Math.max(1, ...all) });
      drawChart(find("shares"), perArm(shares), { ...axis, low: 0, high: 1 });
      drawChart(find("regrets"), regrets, { ...axis, low: 0, high: Math.max(100, ...regrets.flat()) });
      armCells.forEach(([mean, share], arm) => {
        mean.textContent = race.meansAt(Math.max(0, time - 1))[arm].toFixed(2);
        share.textContent = (chosen().player.probabilities?.() ?? race.recentShares(chosen().arms))[arm].toFixed(2);
      });
      playerCells.forEach(([cell], index) => (cell.textContent = race.players[index].regret.toFixed(0)));
      find("time").textContent = `${time.toLocaleString("en")} of ${NUM_PULLS.toLocaleString("en")} pulls`;
    }

    function say(what) {
      const regrets = race.players.map((own, index) => `${NAMES[index]} ${own.regret.toFixed(0)}`).join(", ");
      find("status").textContent = `${what} after ${time.toLocaleString("en")} pulls. Summed regret: ${regrets}.`;
    }

    function playUntil(end) {
      time = Math.min(NUM_PULLS, end);
      race.playUntil(time);
      draw();
      if (time === NUM_PULLS && clock.running) pause("The end");
    }

    const clock = new Clock((seconds) => playUntil(time + Math.ceil(PULLS_A_SECOND * seconds)));

    function pause(what) {
      clock.stop();
      find("run").textContent = "Run";
      say(what);
    }

    function begin() {
      clock.stop();
      find("run").textContent = "Run";
      seed += 1;
      time = 0;
      race = new Race(settings, seed);
      find("status").textContent = `Bandit ${seed}. Nobody has pulled an arm yet.`;
      draw();
    }

    find("run").addEventListener("click", () => {
      if (clock.running) return pause("Paused");
      if (time === NUM_PULLS) begin();
      find("run").textContent = "Pause";
      find("status").textContent = "All four players pull.";
      return clock.start();
    });
    find("step").addEventListener("click", () => {
      playUntil(time + settings.groupSize);
      pause("One group more, paused");
    });
    find("restart").addEventListener("click", begin);
    find("player").addEventListener("change", () => {
      find("shares-title").textContent = chosen().player.probabilities
        ? "Probability of each arm under GRPO's policy"
        : `Share of each arm in the last ${WINDOW} pulls of ${NAMES[find("player").value]}`;
      find("share-head").textContent = chosen().player.probabilities ? "probability now" : "share now";
      draw();
    });
    for (const input of root.querySelectorAll("input")) input.addEventListener("input", readSettings);
    addEventListener("resize", draw);
    root.hidden = false;
    readSettings();
    begin();
    find("check").textContent = sentenceOfCheck();
  }

  /** Largest difference between the probabilities here and those that the library recorded, over all steps. */
  function largestDifference(recorded) {
    const own = new Grpo(recorded.probabilities[0].length, recorded.settings);
    let largest = 0;
    recorded.probabilities.forEach((expected, step) => {
      own.probabilities().forEach((p, arm) => (largest = Math.max(largest, Math.abs(p - expected[arm]))));
      if (step < recorded.arms.length) own.learn(recorded.arms[step], recorded.rewards[step]);
    });
    return largest;
  }

  function sentenceOfCheck() {
    const differences = anygrpo.recorded.map(largestDifference);
    const steps = anygrpo.recorded[0].arms.length;
    return (
      `Checked in this browser: given the arms and rewards of ${differences.length} recorded runs of GRPOTrainer, ` +
      `${steps} steps each, the probabilities here differ from the library's by at most ` +
      `${Math.max(...differences).toExponential(1)}.`
    );
  }

  Object.assign(anygrpo, { Race, largestDifference });
  const root = document.getElementById("demo-bandit");
  if (root) start(root);
})();
