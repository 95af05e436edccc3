"""What objectives are composed of: terms of the loss, masks, schedules."""
