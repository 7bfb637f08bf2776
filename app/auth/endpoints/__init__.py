"""The doors to what callers are: keys, people's sessions, who is shut out."""
