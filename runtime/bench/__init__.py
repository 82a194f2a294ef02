"""`worldbridge bench`: how fast decoding, kernels and many players are on this machine."""
