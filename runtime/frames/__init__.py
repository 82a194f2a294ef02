"""Frames: decoding latents to I420."""
