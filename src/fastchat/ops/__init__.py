"""What operators ask of a server: metrics, health, status."""
