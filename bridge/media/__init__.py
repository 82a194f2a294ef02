"""Video: encoding and broadcasting the frames of a session."""
