"""What a user does, from the first command to the last."""
