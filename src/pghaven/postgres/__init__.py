"""What PostgreSQL writes and says, as values: bytes or text in, values out, no input or output of its own."""
