-- The mean confidence by day beside that of the first seven days of the model version, and how
-- many standard errors lie between them: a model that is less sure than it was sees other pictures.
WITH days AS (
    SELECT
        day,
        model_version_id,
        SUM(predictions) AS predictions,
        SUM(confidence_sum) AS total,
        SUM(confidence_squares) AS squares,
        ROW_NUMBER() OVER (PARTITION BY model_version_id ORDER BY day) AS number
    FROM daily_counts
    WHERE day >= :since_day
    GROUP BY day, model_version_id
),
first_days AS (
    SELECT
        model_version_id,
        SUM(predictions) AS predictions,
        SUM(total) / SUM(predictions) AS mean,
        SUM(squares) / SUM(predictions) AS mean_square
    FROM days
    WHERE number <= 7
    GROUP BY model_version_id
)
SELECT
    days.day,
    days.model_version_id AS model_version,
    days.predictions,
    days.total / days.predictions AS confidence,
    days.total / days.predictions
        - LAG(days.total / days.predictions) OVER (
            PARTITION BY days.model_version_id ORDER BY days.day
        ) AS since_day_before,
    first_days.mean AS baseline,
    (days.total / days.predictions - first_days.mean)
        / NULLIF(SQRT(
            CASE WHEN first_days.mean_square > first_days.mean * first_days.mean
                THEN first_days.mean_square - first_days.mean * first_days.mean ELSE 0 END
            * (1.0e0 / days.predictions + 1.0e0 / first_days.predictions)
        ), 0) AS standard_errors
FROM days
JOIN first_days ON first_days.model_version_id = days.model_version_id
ORDER BY days.day, days.model_version_id
