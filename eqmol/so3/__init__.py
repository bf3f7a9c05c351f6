"""Ground floor: rotations. Knows neither graphs nor networks."""
