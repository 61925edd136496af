"""The mathematics of diffusion in float64 NumPy: schedules, process tables, sampling tables and keyed noise."""
