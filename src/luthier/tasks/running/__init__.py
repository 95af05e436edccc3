"""What tasks share where a model runs: losses, predictions, answers by their likelihood. All of it needs torch."""
