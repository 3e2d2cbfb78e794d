"""Compare the runs of a study: `read_study` → `compare_study` → a `results.Comparison`, which `views/` renders.

| modules | job |
| --- | --- |
| `study`, `run_files`, `naming`, `texts` | read run folders, which may be untrusted, into groups |
| `statistics`, `sign_flips`, `power` | estimates, tests and power, from arrays |
| `scores`, `slices`, `calibration`, `curves`, `cost`, `mistakes` | the results of one group, or of all together |
| `pairs`, `verdicts` | the results of two groups, and what they show |
| `notes` | possible confounds |
| `results`, `summary` | the dataclasses of all results, and the one function that builds them |

Statistics import no view. Arrays carry their shape in their names: S runs of one group (its seeds), N documents,
C classes, B bootstrap draws, K columns; `correct_SN` has one row per seed and one column per document.
"""
