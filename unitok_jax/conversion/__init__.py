"""Published checkpoints to folders that training and use read, and back."""
