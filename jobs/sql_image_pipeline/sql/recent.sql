-- The newest predictions of one label since a moment, page by page from the newest.
-- Index ix_predictions_recent (label_id, created_at, id), read backwards.
SELECT
    predictions.id,
    images.sha256,
    labels.name AS label,
    predictions.confidence,
    predictions.created_at,
    predictions.model_version_id AS model_version,
    truth.name AS true_label
FROM predictions
JOIN images ON images.id = predictions.image_id
JOIN labels ON labels.id = predictions.label_id
LEFT JOIN labels AS truth ON truth.id = images.label_id
WHERE predictions.label_id = (SELECT id FROM labels WHERE name = :label)
  AND predictions.created_at >= :since
  AND (predictions.created_at, predictions.id) < (:after_moment, :after_id)
ORDER BY predictions.created_at DESC, predictions.id DESC
LIMIT :limit
