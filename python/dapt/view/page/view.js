// The page of `dapt view`.
const viewer = new Viewer(document.getElementById("here"), readPage());
viewer.ready.then(() => { document.documentElement.dataset.ready = "yes"; });
