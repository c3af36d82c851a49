"""What the slots themselves do not say: which process it was, and who is at the other end."""
