"""Training, export and evaluation of mini, the small model that ships with Quintet."""
