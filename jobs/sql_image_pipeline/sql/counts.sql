-- How often each label was predicted since a day, its share, and its rank.
-- Reads daily_counts only: as many rows as days, model versions and labels.
SELECT
    labels.name AS label,
    SUM(daily_counts.predictions) AS predictions,
    SUM(daily_counts.predictions) * 1.0e0 / SUM(SUM(daily_counts.predictions)) OVER () AS share,
    RANK() OVER (ORDER BY SUM(daily_counts.predictions) DESC) AS place
FROM daily_counts
JOIN labels ON labels.id = daily_counts.label_id
WHERE daily_counts.day >= :since_day
GROUP BY labels.name
ORDER BY place, label
