// A worker that only ticks. Timers of a page are slowed down when it is in the background, those of
// a worker are not, and a session whose pings stop for four seconds is given up by the gateway.

let timer = null;

self.onmessage = ({ data: milliseconds }) => {
  clearInterval(timer);
  timer = milliseconds === null ? null : setInterval(() => self.postMessage(null), milliseconds);
};
