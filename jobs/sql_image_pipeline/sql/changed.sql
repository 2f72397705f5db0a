-- Pictures of a label since a moment of which an earlier model version said something else.
-- Index ix_predictions_recent finds them, uq_predictions_image_id_model_version_id the versions.
WITH versions AS (
    SELECT
        every.image_id,
        every.model_version_id,
        every.label_id,
        LAG(every.label_id) OVER (
            PARTITION BY every.image_id ORDER BY every.model_version_id
        ) AS before_id
    FROM predictions AS recent
    JOIN predictions AS every ON every.image_id = recent.image_id
    WHERE recent.label_id = (SELECT id FROM labels WHERE name = :label)
      AND recent.created_at >= :since
)
SELECT DISTINCT
    images.sha256,
    versions.model_version_id AS model_version,
    earlier.name AS label_before,
    labels.name AS label
FROM versions
JOIN images ON images.id = versions.image_id
JOIN labels ON labels.id = versions.label_id
JOIN labels AS earlier ON earlier.id = versions.before_id
WHERE versions.before_id <> versions.label_id
ORDER BY images.sha256, versions.model_version_id
LIMIT :limit
