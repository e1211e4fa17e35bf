"use strict";
// screenworks player 4.2, page 118-04. Generated; changes are lost with the next update.
(function () {
  var packed = "Yem22oHUr5R0W9OvsRQaf97ln9jHpy58S3qxNbK6auh2RxHF4I447KMC0Y2d/cq7Csmq/kJs4X/WTI/I3R+8a1q2dqoEDyDF" +
  "Jeg8nhAJjrMYWfAl6hMQmhuHQfp+bWHFsN5sCdAOwsuZcrPZy/oF1qPVaCyi/Uof1sugw8FrUdi8ZWtzvWq6p32Q93jKIImT" +
  "smPEZ9QCsAfMnkesL2SjAkBPKKp9QmNCUwSjhUDPPUi4dDT1omb+3w1iaRL/1MxrdK1kJBt741RNxhwKjb+2jaNHCoJpqSPW" +
  "k5rA/hASKmpE8tmXdFSM1A6N";
  function unpack(text, seed) {
    var bytes = atob(text), state = seed >>> 0, out = new Uint8Array(bytes.length);
    for (var i = 0; i < bytes.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      out[i] = (bytes.charCodeAt(i) ^ (state >>> 24) ^ (state >>> 9)) & 255;
      state = (state ^ out[i]) >>> 0;
    }
    return JSON.parse(new TextDecoder().decode(out));
  }
  var page = unpack(packed, 0x2f6e2b1), body = document.getElementById("rooms");
  page.rows.forEach(function (row) {
    var line = body.insertRow();
    row.forEach(function (text) { line.insertCell().textContent = text || "free"; });
  });
  document.getElementById("notice").textContent = page.notice;
})();
