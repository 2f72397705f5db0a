-- What the model is least sure of and nobody has looked at, page by page from the least sure.
-- Index ix_predictions_uncertain (reviewed, confidence, id).
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
WHERE predictions.reviewed = FALSE
  AND predictions.confidence < :below
  AND (predictions.confidence, predictions.id) > (:after_confidence, :after_id)
ORDER BY predictions.confidence, predictions.id
LIMIT :limit
