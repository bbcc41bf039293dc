// Two pictures of one size, one over the other, with a line to drag between them.
function makeViewer(stage) {
  const view = {scale: 1, x: 0, y: 0, split: .5, width: 1, height: 1, fitted: true};
  const add = (className, attributes = {}) => {
    const node = document.createElement("div");
    node.className = className;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    stage.append(node);
    return node;
  };
  stage.classList.add("stage");
  stage.tabIndex = 0;
  stage.setAttribute("role", "group");
  stage.setAttribute("aria-label", "comparison: arrows move the picture, + and - zoom, 0 shows all of it");
  const layers = [add("layer"), add("layer")];
  const labels = [add("name left"), add("name right")];
  const divider = add("divider", {role: "slider", tabindex: 0, "aria-label": "divider", "aria-valuemin": 0, "aria-valuemax": 100});

  function draw() {
    const {clientWidth: W, clientHeight: H} = stage;
    // The middle of the stage stays over the picture.
    view.x = Math.min(W / 2, Math.max(W / 2 - view.width * view.scale, view.x));
    view.y = Math.min(H / 2, Math.max(H / 2 - view.height * view.scale, view.y));
    for (const image of stage.querySelectorAll("img"))
      image.style.transform = `translate(${view.x}px,${view.y}px) scale(${view.scale})`;
    // Below two device pixels each, squares of uneven size would show.
    stage.classList.toggle("pixels", view.scale * devicePixelRatio > 1.99);
    const at = Math.round(view.split * W);
    layers[1].style.clipPath = `inset(0 0 0 ${at}px)`;
    divider.style.left = at + "px";
    divider.setAttribute("aria-valuenow", Math.round(100 * view.split));
  }
  function zoom(scale, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    scale = Math.min(64, Math.max(.02, scale));
    view.x = x - (x - view.x) * scale / view.scale;
    view.y = y - (y - view.y) * scale / view.scale;
    view.scale = scale;
    view.fitted = false;
    draw();
  }
  function fit() {
    view.scale = Math.min(stage.clientWidth / view.width, stage.clientHeight / view.height);
    view.x = (stage.clientWidth - view.width * view.scale) / 2;
    view.y = (stage.clientHeight - view.height * view.scale) / 2;
    view.fitted = true;
    draw();
  }
  function move(x, y) {
    view.x += x;
    view.y += y;
    view.fitted = false;
    draw();
  }
  function setSplit(split) {
    view.split = Math.min(1, Math.max(0, split));
    draw();
  }

  const pointers = new Map();
  let dragged = null; // the pointer that holds the divider
  stage.onpointerdown = event => {
    if (event.target === divider) dragged = event.pointerId;
    pointers.set(event.pointerId, event);
    try { stage.setPointerCapture(event.pointerId); } catch (error) { /* a pointer that is gone */ }
  };
  stage.onpointermove = event => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const box = stage.getBoundingClientRect();
    pointers.set(event.pointerId, event);
    if (event.pointerId === dragged) return setSplit((event.clientX - box.left) / box.width);
    const other = [...pointers.values()].find(p => p.pointerId !== event.pointerId);
    if (!other) return move(event.clientX - before.clientX, event.clientY - before.clientY);
    const reach = p => Math.max(1, Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY));
    move((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    zoom(view.scale * reach(event) / reach(before),
      (event.clientX + other.clientX) / 2 - box.left, (event.clientY + other.clientY) / 2 - box.top);
  };
  stage.onpointerup = stage.onpointercancel = event => {
    pointers.delete(event.pointerId);
    if (event.pointerId === dragged) dragged = null;
  };
  stage.addEventListener("wheel", event => {
    const box = stage.getBoundingClientRect();
    zoom(view.scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    event.preventDefault();
  }, {passive: false});
  stage.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const right = {ArrowLeft: -1, ArrowRight: 1}[event.key] || 0, down = {ArrowUp: -1, ArrowDown: 1}[event.key] || 0;
    if (event.target === divider && right) setSplit(view.split + right * .02);
    else if (right || down) move(-40 * right, -40 * down);
    else if (event.key === "+" || event.key === "=") zoom(view.scale * 1.5);
    else if (event.key === "-") zoom(view.scale / 1.5);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  };
  new ResizeObserver(() => view.fitted ? fit() : draw()).observe(stage);

  const wanted = ["", ""];
  return {
    fit,
    // Device pixels for each pixel of the picture.
    zoomTo: pixels => zoom(pixels / devicePixelRatio),
    setSize(width, height) {
      Object.assign(view, {width, height});
      layers.forEach(layer => layer.replaceChildren());
      wanted.fill("");
      fit();
    },
    // Shows a picture on a side, 0 or 1, when it is loaded; the one before stays until then.
    async show(side, url, label) {
      if (wanted[side] !== url) {
        wanted[side] = url;
        const image = new Image();
        image.alt = "";
        image.draggable = false;
        image.src = url;
        await image.decode();
        if (wanted[side] !== url) return;
        layers[side].replaceChildren(image);
      }
      labels[side].textContent = label;
      divider.setAttribute("aria-valuetext", `${labels[0].textContent} to the left, ${labels[1].textContent} to the right`);
      draw();
    },
  };
}
