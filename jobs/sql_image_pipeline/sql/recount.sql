-- What daily_counts must hold: the sums of all predictions.
INSERT INTO daily_counts (
    day, model_version_id, label_id, predictions, labelled, correct,
    confidence_sum, confidence_squares
)
SELECT
    DATE(predictions.created_at) AS day,
    predictions.model_version_id,
    predictions.label_id,
    COUNT(*) AS predictions,
    COUNT(images.label_id) AS labelled,
    SUM(CASE WHEN images.label_id = predictions.label_id THEN 1 ELSE 0 END) AS correct,
    SUM(predictions.confidence) AS confidence_sum,
    SUM(predictions.confidence * predictions.confidence) AS confidence_squares
FROM predictions
JOIN images ON images.id = predictions.image_id
GROUP BY DATE(predictions.created_at), predictions.model_version_id, predictions.label_id
