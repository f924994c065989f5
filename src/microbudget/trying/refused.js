(() => {
  const say = (text) => {
    const place = document.querySelector("#refused");
    if (!place) return setTimeout(() => say(text), 300);
    let line = place.querySelector("p");
    if (!line) {
      line = document.createElement("p");
      line.className = "failure";
      line.setAttribute("role", "alert");
      place.append(line);
    }
    line.textContent = text;
  };
  const devices = navigator.mediaDevices;
  if (!devices) {
    say("This browser gives no page but those of 127.0.0.1 and https a microphone or a camera: upload a file.");
    return;
  }
  const open = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wanted) => {
    try {
      return await open(wanted);
    } catch (error) {
      const what = wanted && wanted.audio ? "microphone" : "camera";
      const why = error.name === "NotAllowedError" ? "is not allowed here: allow it in the browser's settings of this page"
        : "could not be opened (" + error.name + ")";
      say("The " + what + " " + why + ", or upload a file.");
      throw error;
    }
  };
})();
