// Recorded flights of the lunar lander, drawn frame by frame.
"use strict";

(() => {
  const { Clock, cleared, flights } = anygrpo;
  const [WIDTH, HEIGHT] = [600, 400]; // of the environment's picture, in which all lengths here are
  const BODY = [[-14, 17], [-17, 0], [-17, -10], [17, -10], [17, 0], [14, 17]];
  const [LEG_AWAY, LEG_DOWN, LEG_WIDTH, LEG_HEIGHT] = [20, 18, 2, 8];
  const FLAMES = { 1: [[17, 10], [17, 16], [32, 13]], 2: [[-5, -10], [5, -10], [0, -34]], 3: [[-17, 10], [-17, 16], [-32, 13]] };
  const ENGINES = ["no engine", "side engine pushes it to its left", "main engine", "side engine pushes it to its right"];
  const LEGS = ["no leg on the ground", "right leg on the ground", "left leg on the ground", "both legs on the ground"];

  /** What was recorded of one frame, in pixels, radians and points. */
  function frameAt(flight, index) {
    const [x, y, angle, left, right, engine, legs, points] = flight.frames[index];
    return { x: x / 10, y: y / 10, angle: angle / 1000, legAngles: [left / 1000, right / 1000], engine, legs, points: points / 10 };
  }

  function polygon(context, points, colour) {
    context.fillStyle = colour;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.closePath();
    context.fill();
  }

  /** Draws in a frame of its own: moved to x and y, then turned by the angle. */
  function placed(context, x, y, angle, draw) {
    context.save();
    context.translate(x, y);
    context.rotate(angle);
    draw();
    context.restore();
  }

  function drawFrame(canvas, flight, frame) {
    const { context, width } = cleared(canvas);
    context.scale(width / WIDTH, -width / WIDTH);
    context.translate(0, -HEIGHT);
    const ground = flight.terrain.map((height, index) => [(WIDTH / (flight.terrain.length - 1)) * index, height]);
    polygon(context, [[0, 0], ...ground, [WIDTH, 0]], "#767676");
    for (const x of flights.pad.x) {
      polygon(context, [[x, flights.pad.y], [x, flights.pad.y + 40], [x + 2, flights.pad.y + 40], [x + 2, flights.pad.y]], "#333");
      polygon(context, [[x, flights.pad.y + 40], [x + 22, flights.pad.y + 34], [x, flights.pad.y + 28]], "#D55E00");
    }
    const { x, y } = frame;
    [-1, 1].forEach((side, index) => {
      placed(context, x, y, frame.legAngles[index], () => {
        context.translate(-side * LEG_AWAY, -LEG_DOWN);
        context.fillStyle = frame.legs & (1 << index) ? "#009E73" : "#882255";
        context.fillRect(-LEG_WIDTH, -LEG_HEIGHT, 2 * LEG_WIDTH, 2 * LEG_HEIGHT);
      });
    });
    placed(context, x, y, frame.angle, () => {
      polygon(context, BODY, "#0072B2");
      if (FLAMES[frame.engine]) polygon(context, FLAMES[frame.engine], "#D55E00");
    });
  }

  /** The frame in words. */
  function described(frame) {
    const [away, above] = [frame.x - WIDTH / 2, frame.y - flights.pad.y - LEG_DOWN];
    const degrees = Math.round((frame.angle * 180) / Math.PI);
    const where = `${Math.abs(away).toFixed(0)} px ${away < 0 ? "left" : "right"} of the pad's middle, ${above.toFixed(0)} px above`;
    const tilt = degrees === 0 ? "upright" : `tilted ${Math.abs(degrees)}° to the ${degrees > 0 ? "left" : "right"}`;
    return `${where}, ${tilt}, ${ENGINES[frame.engine]}, ${LEGS[frame.legs]}, return so far ${frame.points.toFixed(0)}`;
  }

  function start(root) {
    const find = (name) => root.querySelector(`[data-part="${name}"]`);
    const [canvas, position] = [find("picture"), find("position")];
    let [flight, index, rest] = [null, 0, 0];
    const last = () => flight.frames.length - 1;

    function draw() {
      const frame = frameAt(flight, index);
      drawFrame(canvas, flight, frame);
      position.value = index;
      position.setAttribute("aria-valuetext", `step ${index} of ${last()}`);
      find("frame").textContent = `Step ${index} of ${last()}: ${described(frame)}.`;
      canvas.setAttribute("aria-label", `Picture of the flight. ${find("frame").textContent}`);
    }

    function show(next) {
      index = Math.max(0, Math.min(last(), next));
      draw();
      if (index === last() && clock.running) pause(`The flight ${flight.end} after ${last()} steps, return ${flight.return.toFixed(0)}.`);
    }

    const clock = new Clock((seconds) => {
      rest += seconds * flights.frames_per_second * Number(find("speed").value);
      const steps = Math.floor(rest);
      rest -= steps;
      if (steps > 0) show(index + steps);
    });

    function pause(what) {
      clock.stop();
      find("play").textContent = "Play";
      find("status").textContent = what;
    }

    function choose() {
      const stage = flights.stages[find("stage").value];
      flight = stage.flights[find("flight").value];
      position.max = last();
      const [low, high] = stage.interval;
      find("stage-text").textContent =
        `${stage.name}: mean return over ${stage.num_episodes} other starts ${stage.mean.toFixed(0)}, ` +
        `95% interval of the mean ${low.toFixed(0)} to ${high.toFixed(0)}. ` +
        `This flight ${flight.end} after ${last()} steps and decisions, return ${flight.return.toFixed(0)}.`;
      pause("At the start.");
      show(0);
    }

    function move(steps) {
      pause("Paused.");
      show(index + steps);
      find("status").textContent = find("frame").textContent;
    }

    flights.stages.forEach((stage, number) => find("stage").add(new Option(stage.name, number)));
    flights.stages[0].flights.forEach((own, number) => find("flight").add(new Option(`start ${number + 1} (seed ${own.seed})`, number)));
    for (const name of ["stage", "flight"]) find(name).addEventListener("change", choose);
    find("play").addEventListener("click", () => {
      if (clock.running) return pause("Paused.");
      if (index === last()) show(0);
      find("play").textContent = "Pause";
      find("status").textContent = "Flying.";
      return clock.start();
    });
    find("back").addEventListener("click", () => move(-1));
    find("forward").addEventListener("click", () => move(1));
    position.addEventListener("input", () => {
      pause("");
      show(Number(position.value));
    });
    addEventListener("resize", draw);
    root.hidden = false;
    choose();
  }

  const root = document.getElementById("demo-lander");
  if (root) start(root);
})();
