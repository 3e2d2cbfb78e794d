"""Compare the groups of a study: `read_study` → `compare_study` → `results.Comparison`, rendered by `views/`.

| modules | purpose |
| --- | --- |
| `study`, `run_files`, `naming` | read run folders, which may be untrusted, and group the runs |
| `texts` | read the texts of the test documents |
| `predictions_file`, `prediction_rows` | read a file of predictions, which may be untrusted, as a study |
| `estimate`, `statistics`, `inference`, `sign_flips`, `sequential`, `power` | estimates, tests and power, from arrays |
| `group`, `samples`, `metrics` | a group, and its metrics as arrays |
| `slices`, `class_scores`, `calibration`, `curves`, `size_curves`, `cost`, `mistakes`, `baseline` | results of groups |
| `pairs`, `verdicts` | tests and verdict for each pair of groups |
| `planned`, `race`, `looks` | repeated tests of a study that grows |
| `facts`, `notes` | what was compared, and possible confounds |
| `results`, `summary` | dataclasses for all results, and the function that builds them |
| `frames` | data frames and HTML for notebooks |
| `tuning_results`, `expected_maximum` | results of a tuning study |

None of these modules imports `views/`. Array names end in their shape: S seeds (runs of one group), N documents,
C classes, B bootstrap draws, K columns, G clusters. `correct_SN` has one row per seed and one column per document.
"""
