"""What a user's program imports: models, engines that compute their attention, the accelerator's driver. Needs no
HDL."""
