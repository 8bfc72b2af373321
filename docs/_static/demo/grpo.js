// GRPO on a bandit, as GRPOTrainer computes it for a SoftmaxPolicy, and the strategies that it is compared with.
"use strict";

(() => {
  const { softmax } = anygrpo;
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const BETAS = [0.9, 0.999];
  const EPSILON = 1e-8;
  const MAX_GRADIENT_NORM = 1;

  /** How each reward compares with the others of its group: (R - mean) / std, or R - mean. */
  function groupAdvantages(rewards, normalizes) {
    const mean = sum(rewards) / rewards.length;
    const centered = rewards.map((reward) => reward - mean);
    const std = Math.sqrt(sum(centered.map((value) => value * value)) / (rewards.length - 1));
    return normalizes && std > 0 ? centered.map((value) => value / std) : centered;
  }

  /**
   * Gradient of GRPO's loss with respect to the logits. A group is used for one update, so that the ratio of new to old
   * probabilities is 1 and within its clip range, and the gradient of ratio × A is that of A × log π.
   */
  function lossGradient(logits, arms, advantages, entropyCoefficient) {
    const probabilities = softmax(logits);
    const entropy = -sum(probabilities.map((p) => (p > 0 ? p * Math.log(p) : 0)));
    const gradient = probabilities.map((p) => entropyCoefficient * (p > 0 ? p * (Math.log(p) + entropy) : 0));
    arms.forEach((arm, pull) => {
      probabilities.forEach((p, other) => {
        gradient[other] -= (advantages[pull] * ((other === arm) - p)) / arms.length;
      });
    });
    return gradient;
  }

  class Grpo {
    /** `settings`: groupSize, learningRate, entropyCoefficient, normalizes; they may change between groups. */
    constructor(numArms, settings) {
      this.settings = settings;
      this.logits = Array(numArms).fill(0);
      this.moments = [Array(numArms).fill(0), Array(numArms).fill(0)];
      this.numUpdates = 0;
    }

    probabilities() {
      return softmax(this.logits);
    }

    /** A group of arms, all drawn before a reward is seen. */
    decide(random) {
      const probabilities = this.probabilities();
      return Array.from({ length: this.settings.groupSize }, () => {
        let left = random();
        const arm = probabilities.findIndex((p) => (left -= p) < 0);
        return arm < 0 ? probabilities.length - 1 : arm;
      });
    }

    /** One update by Adam, the gradient scaled down to a norm of 1 where it is above. */
    learn(arms, rewards) {
      const { entropyCoefficient, learningRate, normalizes } = this.settings;
      const advantages = groupAdvantages(rewards, normalizes);
      const gradient = lossGradient(this.logits, arms, advantages, entropyCoefficient);
      const scale = 1 / Math.max(1, Math.hypot(...gradient) / MAX_GRADIENT_NORM);
      this.numUpdates += 1;
      this.logits = this.logits.map((logit, arm) => {
        const [first, second] = [1, 2].map((power, index) => {
          const [moment, beta] = [this.moments[index], BETAS[index]];
          moment[arm] = beta * moment[arm] + (1 - beta) * (scale * gradient[arm]) ** power;
          return moment[arm] / (1 - beta ** this.numUpdates);
        });
        return logit - (learningRate * first) / (Math.sqrt(second) + EPSILON);
      });
    }
  }

  const indexOfMax = (values) => values.indexOf(Math.max(...values));

  /** Averages of what each arm gave, which forget by the discount; 1 forgets nothing. */
  class Averages {
    constructor(numArms, discount = 1) {
      this.discount = discount;
      this.counts = Array(numArms).fill(0);
      this.sums = Array(numArms).fill(0);
    }
    averages() {
      return this.sums.map((total, arm) => (this.counts[arm] > 1e-6 ? total / this.counts[arm] : Infinity));
    }
    learn([arm], [reward]) {
      this.counts = this.counts.map((count, other) => this.discount * count + (other === arm));
      this.sums = this.sums.map((total, other) => this.discount * total + (other === arm) * reward);
    }
  }

  class EpsilonGreedy extends Averages {
    constructor(numArms, epsilon) {
      super(numArms);
      this.epsilon = epsilon;
    }
    decide(random) {
      const explores = random() < this.epsilon;
      return [explores ? Math.floor(random() * this.counts.length) : indexOfMax(this.averages())];
    }
  }

  class UpperConfidenceBound extends Averages {
    constructor(numArms, rewardStd, discount) {
      super(numArms, discount);
      this.width = Math.SQRT2 * rewardStd;
    }
    decide() {
      const logTime = Math.log(Math.max(1, sum(this.counts)));
      const averages = this.averages();
      const bounds = averages.map((average, arm) =>
        average === Infinity ? Infinity : average + this.width * Math.sqrt(logTime / this.counts[arm]),
      );
      return [indexOfMax(bounds)];
    }
  }

  Object.assign(anygrpo, { EpsilonGreedy, Grpo, UpperConfidenceBound });
})();
