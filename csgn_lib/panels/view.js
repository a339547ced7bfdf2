// HTML that is replaced in place: clicks on [data-choice] and the width are sent to the kernel.
// A <dialog> in it opens over the page; Esc and a click outside close it, which is the choice "close".
function render({ model, el }) {
  const body = document.createElement("div");
  el.appendChild(body);
  let drawn = 0;
  const draw = async () => {
    const own = ++drawn;
    body.style.minHeight = `${body.offsetHeight}px`; // the page keeps its height until the new images are decoded
    body.innerHTML = model.get("value");
    await Promise.allSettled([...body.querySelectorAll("img")].map((image) => image.decode()));
    if (own !== drawn) return;
    body.style.minHeight = "";
    const dialog = body.querySelector("dialog");
    dialog?.addEventListener("close", () => model.send({ choice: "close" }));
    dialog?.showModal();
  };
  body.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-choice]");
    if (event.target.tagName === "DIALOG") event.target.close(); // outside: what is inside covers the dialog
    if (chosen) model.send({ choice: chosen.dataset.choice });
  });
  const size = new ResizeObserver(() => {
    const width = Math.floor(el.clientWidth);
    if (width > 0 && Math.abs(width - model.get("width")) > 16) {
      model.set("width", width);
      model.save_changes();
    }
  });
  size.observe(el);
  model.on("change:value", draw);
  draw();
  return () => {
    size.disconnect();
    model.off("change:value", draw);
  };
}
export default { render };
