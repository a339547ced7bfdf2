// A button that sends the name and the content of a chosen file to the kernel.
function render({ model, el }) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = model.get("accept");
  input.hidden = true;
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file) model.send({ name: file.name }, undefined, [await file.arrayBuffer()]);
    input.value = ""; // otherwise choosing the same file again is no change
  });
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-button";
  button.style.cssText = "width:max-content;margin:2px";
  const icon = document.createElement("i");
  icon.className = "fa fa-upload";
  button.append(icon, model.get("description"));
  button.addEventListener("click", () => input.click());
  el.append(button, input);
}
export default { render };
