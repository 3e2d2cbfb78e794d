"""Documents from their sources to batches: readers → sources → splits → tokens → batches."""
