// A timer in a worker. Browsers throttle a background page's timers, but not a worker's, and the
// gateway closes a session whose pings stop for four seconds.

let timer = null;

self.onmessage = ({ data: milliseconds }) => {
  clearInterval(timer);
  timer = milliseconds === null ? null : setInterval(() => self.postMessage(null), milliseconds);
};
