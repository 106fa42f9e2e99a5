"""Training and evaluation. It is handed a built Cell and never imports the model zoo."""
