"""Ideas in, experiments out: implementer, scheduler, worker, and the pipeline that joins them."""
