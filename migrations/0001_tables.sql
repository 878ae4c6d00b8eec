-- Version 1: the tables and views of the catalog.
--
-- No primary keys, unique constraints, foreign keys or secondary indexes: rows that change are
-- rewritten (delete and insert in one transaction), which an index would make fragile
-- (docs/adr/0003-catalog.md). Keys and references are kept by the owner thread and judged by
-- `eider db check`. Times are UTC and come from the program, never from the clock of the database.

CREATE TABLE app_config (
    config_key VARCHAR NOT NULL,
    config_value JSON NOT NULL,
    config_type VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    description VARCHAR,
    is_system_config BOOLEAN NOT NULL,
    is_user_editable BOOLEAN NOT NULL,
    validation_rule VARCHAR,
    default_value JSON,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE app_state (
    id BIGINT NOT NULL,
    current_state VARCHAR NOT NULL,
    state_data JSON,
    last_error VARCHAR,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE backup_records (
    id BIGINT NOT NULL,
    backup_name VARCHAR NOT NULL,
    backup_type VARCHAR NOT NULL,
    source_version VARCHAR,
    backup_path VARCHAR NOT NULL,
    backup_size BIGINT,
    file_count BIGINT,
    compression_type VARCHAR NOT NULL,
    backup_hash VARCHAR,
    description VARCHAR,
    backup_metadata JSON,
    created_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP,
    status VARCHAR NOT NULL,
    error_message VARCHAR,
    duration_seconds DOUBLE,
    target VARCHAR NOT NULL,
    verified_at TIMESTAMP,
    deleted_at TIMESTAMP
);

CREATE TABLE upgrade_history (
    id BIGINT NOT NULL,
    upgrade_id VARCHAR NOT NULL,
    from_version VARCHAR,
    to_version VARCHAR NOT NULL,
    upgrade_type VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    scheduled_at TIMESTAMP,
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    backup_id BIGINT,
    error_message VARCHAR,
    rollback_reason VARCHAR,
    upgrade_log VARCHAR,
    download_size BIGINT,
    download_time_seconds DOUBLE,
    installation_time_seconds DOUBLE,
    target VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE auto_upgrade_tasks (
    id BIGINT NOT NULL,
    task_id VARCHAR NOT NULL,
    task_name VARCHAR NOT NULL,
    schedule_time TIMESTAMP,
    upgrade_type VARCHAR NOT NULL,
    target_version VARCHAR,
    status VARCHAR NOT NULL,
    progress BIGINT NOT NULL,
    error_message VARCHAR,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

-- One row a schedule.
CREATE TABLE scheduled_tasks (
    task_name VARCHAR NOT NULL,
    namespace VARCHAR NOT NULL,
    task_type VARCHAR NOT NULL,
    schedule VARCHAR NOT NULL,
    time_zone VARCHAR,
    suspended BOOLEAN NOT NULL,
    status VARCHAR NOT NULL,
    last_run_at TIMESTAMP,
    last_success_at TIMESTAMP,
    next_run_at TIMESTAMP,
    missed_runs BIGINT NOT NULL,
    decided_until TIMESTAMP,
    error_message VARCHAR,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE download_tasks (
    id BIGINT NOT NULL,
    task_name VARCHAR NOT NULL,
    download_url VARCHAR NOT NULL,
    total_size BIGINT NOT NULL,
    downloaded_size BIGINT NOT NULL,
    target_path VARCHAR NOT NULL,
    file_hash VARCHAR,
    status VARCHAR NOT NULL,
    error_message VARCHAR,
    retry_count BIGINT NOT NULL,
    max_retry_count BIGINT NOT NULL,
    average_speed BIGINT NOT NULL,
    total_duration_seconds BIGINT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    completed_at TIMESTAMP
);

CREATE TABLE download_chunks (
    id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    chunk_index BIGINT NOT NULL,
    start_byte BIGINT NOT NULL,
    end_byte BIGINT NOT NULL,
    downloaded_bytes BIGINT NOT NULL,
    status VARCHAR NOT NULL,
    error_message VARCHAR,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE user_actions (
    id BIGINT NOT NULL,
    action_type VARCHAR NOT NULL,
    action_description VARCHAR NOT NULL,
    action_params JSON,
    status VARCHAR NOT NULL,
    result_message VARCHAR,
    started_at TIMESTAMP NOT NULL,
    completed_at TIMESTAMP,
    duration_seconds DOUBLE,
    actor VARCHAR NOT NULL,
    session_id VARCHAR,
    client_version VARCHAR,
    platform_info VARCHAR
);

CREATE TABLE service_status_history (
    id BIGINT NOT NULL,
    service_name VARCHAR NOT NULL,
    container_id VARCHAR,
    status VARCHAR NOT NULL,
    cpu_usage DOUBLE,
    memory_usage BIGINT,
    network_io JSON,
    health_status VARCHAR NOT NULL,
    error_message VARCHAR,
    uptime_seconds BIGINT,
    restart_count BIGINT,
    recorded_at TIMESTAMP NOT NULL
);

CREATE TABLE current_service_status (
    service_name VARCHAR NOT NULL,
    container_id VARCHAR,
    status VARCHAR NOT NULL,
    health_status VARCHAR NOT NULL,
    last_updated TIMESTAMP NOT NULL,
    uptime_seconds BIGINT NOT NULL,
    restart_count BIGINT NOT NULL
);

CREATE TABLE system_checks (
    id BIGINT NOT NULL,
    check_type VARCHAR NOT NULL,
    check_name VARCHAR NOT NULL,
    platform VARCHAR,
    required_value VARCHAR,
    actual_value VARCHAR,
    status VARCHAR NOT NULL,
    message VARCHAR,
    checked_at TIMESTAMP NOT NULL
);

CREATE TABLE performance_metrics (
    id BIGINT NOT NULL,
    metric_name VARCHAR NOT NULL,
    metric_value DOUBLE NOT NULL,
    metric_unit VARCHAR,
    tags JSON,
    recorded_at TIMESTAMP NOT NULL
);

CREATE TABLE hosts (
    name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    alias VARCHAR,
    note VARCHAR,
    client_version VARCHAR,
    details JSON,
    first_seen_at TIMESTAMP NOT NULL,
    last_seen_at TIMESTAMP NOT NULL
);

CREATE TABLE notifications (
    id BIGINT NOT NULL,
    channel VARCHAR NOT NULL,
    recipient VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    body VARCHAR,
    object VARCHAR,
    reason VARCHAR,
    status VARCHAR NOT NULL,
    error_message VARCHAR,
    attempts BIGINT NOT NULL,
    sent_at TIMESTAMP NOT NULL
);

CREATE TABLE resources (
    kind VARCHAR NOT NULL,
    namespace VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    generation BIGINT NOT NULL,
    spec_digest VARCHAR NOT NULL,
    document JSON NOT NULL,
    status JSON,
    source VARCHAR NOT NULL,
    observed_at TIMESTAMP NOT NULL,
    removed_at TIMESTAMP
);

-- `at` is a reserved word from DuckDB 2.0 on, hence recorded_at.
CREATE TABLE operation_journal (
    id BIGINT NOT NULL,
    operation VARCHAR NOT NULL,
    step VARCHAR NOT NULL,
    mark VARCHAR NOT NULL,
    recorded_at TIMESTAMP NOT NULL,
    session VARCHAR NOT NULL,
    detail JSON
);

CREATE VIEW current_download_progress AS
SELECT task.id, task.task_name, task.total_size, task.downloaded_size,
       CASE WHEN task.total_size > 0
            THEN round(100.0 * task.downloaded_size / task.total_size, 2) ELSE 0 END AS progress_percentage,
       task.status, task.created_at, task.updated_at,
       count(chunk.id) AS total_chunks,
       count(chunk.id) FILTER (WHERE chunk.status = 'COMPLETED') AS completed_chunks
FROM download_tasks AS task
LEFT JOIN download_chunks AS chunk ON chunk.task_id = task.id
WHERE task.status IN ('DOWNLOADING', 'PAUSED')
GROUP BY ALL;

CREATE VIEW latest_service_status AS
SELECT service_name, status AS current_status, health_status AS current_health,
       last_updated AS last_update
FROM current_service_status;

CREATE VIEW config_by_category AS
SELECT category, config_key, config_value, config_type, description, default_value,
       CASE WHEN config_value::VARCHAR IS NOT DISTINCT FROM default_value::VARCHAR
            THEN 'DEFAULT' ELSE 'MODIFIED' END AS config_status
FROM app_config ORDER BY category, config_key;

CREATE VIEW user_editable_config AS
SELECT config_key, config_value, config_type, category, description, validation_rule, default_value
FROM app_config WHERE is_user_editable ORDER BY category, config_key;

CREATE VIEW backup_statistics AS
SELECT target, count(*) AS total,
       count(*) FILTER (WHERE status IN ('Succeeded', 'Deleted')) AS succeeded,
       count(*) FILTER (WHERE status = 'Failed') AS failed,
       avg(duration_seconds) FILTER (WHERE status IN ('Succeeded', 'Deleted')) AS average_duration_seconds,
       coalesce(sum(backup_size) FILTER (WHERE status = 'Succeeded'), 0)::BIGINT AS stored_bytes
FROM backup_records GROUP BY target ORDER BY target;

CREATE VIEW backup_trends AS
SELECT created_at::DATE AS day, count(*) AS total,
       count(*) FILTER (WHERE status IN ('Succeeded', 'Deleted')) AS succeeded,
       count(*) FILTER (WHERE status = 'Failed') AS failed,
       coalesce(sum(backup_size) FILTER (WHERE status IN ('Succeeded', 'Deleted')), 0)::BIGINT AS written_bytes,
       coalesce(sum(duration_seconds), 0) AS duration_seconds
FROM backup_records GROUP BY day ORDER BY day;

CREATE VIEW target_last_backup AS
SELECT target, arg_max(backup_name, (created_at, id)) AS backup_name,
       max(created_at) AS created_at,
       max(created_at) FILTER (WHERE verified_at IS NOT NULL) AS last_verified_created_at
FROM backup_records WHERE status = 'Succeeded' GROUP BY target ORDER BY target;
