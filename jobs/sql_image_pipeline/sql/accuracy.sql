-- The share of right predictions by day and model version, where the true label is known, with
-- the mean over the last seven days that have any.
WITH days AS (
    SELECT
        day,
        model_version_id,
        SUM(labelled) AS labelled,
        SUM(correct) AS correct
    FROM daily_counts
    WHERE day >= :since_day
    GROUP BY day, model_version_id
    HAVING SUM(labelled) > 0
)
SELECT
    days.day,
    days.model_version_id AS model_version,
    days.labelled,
    days.correct * 1.0e0 / days.labelled AS accuracy,
    SUM(days.correct) OVER last_seven * 1.0e0 / SUM(days.labelled) OVER last_seven AS accuracy_of_seven
FROM days
WINDOW last_seven AS (
    PARTITION BY days.model_version_id ORDER BY days.day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW
)
ORDER BY days.day, days.model_version_id
