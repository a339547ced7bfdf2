// Answers each change of `sent` once the browser has drawn it: jupyter-scatter drops points that arrive while it draws.
function render({ model }) {
  const say = (drawn) => {
    model.set("drawn", drawn);
    model.save_changes();
  };
  const answer = (frames) =>
    requestAnimationFrame(() => (frames > 0 ? answer(frames - 1) : say(model.get("sent"))));
  const sent = () => answer(3);
  say(-1); // also where a page is loaded again
  model.on("change:sent", sent);
  const first = setTimeout(sent, 1500); // the maps' first drawing, with an index of their points
  return () => {
    clearTimeout(first);
    model.off("change:sent", sent);
  };
}
export default { render };
