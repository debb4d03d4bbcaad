"""How hard to push: schedules."""
