// The explorer on a page of its own: what a widget's model does in JupyterLab, over a web socket. A message is a text
// {message, buffers: how many}, and then its buffers.
import explorer from "./explorer.js";

const socket = new WebSocket(`ws${location.protocol.slice(4)}//${location.host}/talk${location.search}`);
socket.binaryType = "arraybuffer";
const heard = new Set();
let head = null, buffers = [];

const model = {
  on: (name, act) => heard.add(act),
  off: (name, act) => heard.delete(act),
  send(message, callbacks, parts = []) {
    socket.send(JSON.stringify({message, buffers: parts.length}));
    parts.forEach(part => socket.send(part));
  },
};

socket.addEventListener("message", ({data}) => {
  if (typeof data === "string") [head, buffers] = [JSON.parse(data), []];
  else buffers.push(data);
  if (buffers.length === head.buffers) heard.forEach(act => act(head.message, buffers));
});
socket.addEventListener("open", () => explorer.render({model, el: document.getElementById("explorer")}));
socket.addEventListener("close", () => heard.forEach(act => act({kind: "error", text: "The explorer has stopped; run autoddpm explore again, and reload this page."}, [])));
