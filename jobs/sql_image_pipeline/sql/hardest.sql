-- Of each label the pictures that the model was least sure of since a moment.
-- Index ix_predictions_created_at; the 0 keeps SQLite from reading all in the order of labels.
WITH ranked AS (
    SELECT
        predictions.label_id,
        predictions.image_id,
        predictions.confidence,
        ROW_NUMBER() OVER (
            PARTITION BY 0 + predictions.label_id ORDER BY predictions.confidence, predictions.id
        ) AS place
    FROM predictions
    WHERE predictions.created_at >= :since
)
SELECT labels.name AS label, images.sha256, ranked.confidence, ranked.place
FROM ranked
JOIN labels ON labels.id = ranked.label_id
JOIN images ON images.id = ranked.image_id
WHERE ranked.place <= :limit
ORDER BY labels.name, ranked.place
