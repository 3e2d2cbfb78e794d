"""Turn datasets into batches: readers → sources → splits → tokens → batches."""
