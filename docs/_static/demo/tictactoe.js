// Tic-tac-toe against the network whose weights are stored in examples/weights.
"use strict";

(() => {
  const { network, softmax } = anygrpo;
  const LINES = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]];
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  const numbers = (base64) => new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
  const layers = network.layers.map(({ weight, bias }) => ({ weight: numbers(weight), bias: numbers(bias) }));

  /** Outputs of a linear layer; its weights stand input by input. */
  function linear(inputs, { weight, bias }) {
    const outputs = Array.from(bias);
    inputs.forEach((input, row) => {
      if (input !== 0) outputs.forEach((_, column) => (outputs[column] += input * weight[row * bias.length + column]));
    });
    return outputs;
  }

  /** Probabilities of the nine moves on a board on which +1 are the stones of the policy; 0 where a stone lies. */
  function moveProbabilities(board) {
    let units = [1, -1].flatMap((player) => board.map((stone) => Number(stone === player)));
    for (const layer of layers.slice(0, -1)) units = linear(units, layer).map(Math.tanh);
    const logits = linear(units, layers.at(-1));
    return softmax(logits.map((logit, cell) => (board[cell] === 0 ? logit : -Infinity)));
  }

  function winner(board) {
    const line = LINES.find(([a, b, c]) => board[a] !== 0 && board[a] === board[b] && board[a] === board[c]);
    return line ? board[line[0]] : 0;
  }

  const isOver = (board) => winner(board) !== 0 || !board.includes(0);
  const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);
  const nameOf = (cell) => `row ${Math.floor(cell / 3) + 1}, column ${(cell % 3) + 1}`;

  function start(root) {
    const find = (name) => root.querySelector(`[data-part="${name}"]`);
    const buttons = [...root.querySelectorAll("[role=grid] button")];
    let [board, given, personStarts, told] = [null, null, true, ""]; // +1 are the policy's stones

    function draw() {
      buttons.forEach((button, cell) => {
        const mark = board[cell] === 0 ? "" : (board[cell] === -1) === personStarts ? "X" : "O";
        const owner = { "-1": `${mark}, yours`, 0: "empty", 1: `${mark}, the policy's` }[board[cell]];
        const share = given === null || given[cell] === 0 ? "" : percent(given[cell]);
        const [large, small] = button.children;
        large.textContent = mark;
        small.textContent = share;
        button.setAttribute("aria-label", `${nameOf(cell)}, ${owner}${share && `, the policy gave it ${share}`}`);
        button.setAttribute("aria-disabled", String(board[cell] !== 0 || isOver(board)));
      });
      find("status").textContent = told + resultOrTurn();
    }

    function resultOrTurn() {
      if (!isOver(board)) return "Your turn.";
      return { "-1": "You win.", 0: "The game is a draw.", 1: "The policy wins." }[winner(board)] + " Begin another game.";
    }

    function answer() {
      given = moveProbabilities(board);
      const cell = given.indexOf(Math.max(...given));
      board[cell] = 1;
      return `The policy takes ${nameOf(cell)}, which it gave ${percent(given[cell])}. `;
    }

    function begin(person) {
      [board, given, personStarts] = [Array(9).fill(0), null, person];
      told = person ? "You play X. " : `You play O. ${answer()}`;
      draw();
      focus(4);
    }

    function take(cell) {
      if (board[cell] !== 0 || isOver(board)) {
        told = board[cell] === 0 ? "" : `There is a stone on ${nameOf(cell)}. `;
      } else {
        board[cell] = -1;
        told = `You take ${nameOf(cell)}. `;
        if (!isOver(board)) told += answer();
      }
      draw();
    }

    function focus(cell) {
      buttons.forEach((button, other) => (button.tabIndex = other === cell ? 0 : -1));
      buttons[cell].focus({ preventScroll: true });
    }

    buttons.forEach((button, cell) => {
      button.addEventListener("click", () => {
        take(cell);
        focus(cell);
      });
      button.addEventListener("keydown", (event) => {
        const step = STEPS[event.key];
        if (!step) return;
        const [row, column] = [(Math.floor(cell / 3) + step[0] + 3) % 3, ((cell % 3) + step[1] + 3) % 3];
        event.preventDefault();
        focus(3 * row + column);
      });
    });
    find("person").addEventListener("click", () => begin(true));
    find("policy").addEventListener("click", () => begin(false));
    find("strength").textContent = network.strength;
    board = Array(9).fill(0);
    told = "You play X. ";
    draw();
    root.hidden = false;
  }

  anygrpo.moveProbabilities = moveProbabilities;
  const root = document.getElementById("demo-tictactoe");
  if (root) start(root);
})();
