"""What several devices have learned, merged through Flower: each client is a device with a state directory."""
