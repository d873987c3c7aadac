"""Which setting of a training is best: a search space, trials that are trainings, and the study over them."""
