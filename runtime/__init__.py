"""Controls in, frames out, on one device: sessions, pacing, world models, the worker process."""
