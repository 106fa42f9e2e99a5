"""Several processes of one script, started by msrun and watched from their start to their end."""
