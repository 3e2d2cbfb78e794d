"""Turn data sets into batches: readers → sources → splits → tokens → batches."""
