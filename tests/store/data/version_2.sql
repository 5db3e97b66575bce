BEGIN TRANSACTION;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "counters" VALUES('last_order',7);
CREATE TABLE endings (
        place INTEGER PRIMARY KEY,
        position INTEGER NOT NULL UNIQUE REFERENCES jobs (position) ON DELETE CASCADE
    );
INSERT INTO "endings" VALUES(1,3);
INSERT INTO "endings" VALUES(2,2);
INSERT INTO "endings" VALUES(3,1);
INSERT INTO "endings" VALUES(4,4);
CREATE TABLE events (
        position INTEGER NOT NULL REFERENCES jobs (position) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        time REAL NOT NULL,
        supersedable INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (position, sequence)
    ) WITHOUT ROWID
    ;
INSERT INTO "events" VALUES(1,1,1001.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
INSERT INTO "events" VALUES(1,2,1002.0,0,'{"type":"state_change","previous":"queued","state":"running","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(1,3,1003.0,1,'{"type":"progress","stage":"generating","task":"digits","samples_done":40,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":null,"batch_size":0,"output_tokens":0}');
INSERT INTO "events" VALUES(1,4,1004.0,0,'{"type":"task_result","task":"digits","version":"1","metrics":[{"name":"exact_match","filter":"none","value":0.75,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":100}],"samples_asked":100,"samples_scored":100,"samples_errored":0,"elapsed_seconds":2.5}');
INSERT INTO "events" VALUES(1,5,1005.0,0,'{"type":"task_result","task":"letters","version":"1","metrics":[{"name":"exact_match","filter":"none","value":NaN,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":100}],"samples_asked":100,"samples_scored":100,"samples_errored":0,"elapsed_seconds":2.5}');
INSERT INTO "events" VALUES(1,6,1006.0,0,'{"type":"state_change","previous":"running","state":"completed","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(2,1,1002.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
INSERT INTO "events" VALUES(2,2,1003.0,0,'{"type":"state_change","previous":"queued","state":"running","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(2,3,1004.0,1,'{"type":"progress","stage":"generating","task":"digits","samples_done":3,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":12.5,"batch_size":0,"output_tokens":0}');
INSERT INTO "events" VALUES(2,4,1005.0,0,'{"type":"state_change","previous":"running","state":"failed","attempt":1,"reason":"","error":{"code":"worker_died","reason":"WORKER_KILLED","message":"the worker was killed","details":{"signal":"SIGKILL"},"log_tail":"… last line"}}');
INSERT INTO "events" VALUES(3,1,1003.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
INSERT INTO "events" VALUES(3,2,1004.0,0,'{"type":"state_change","previous":"queued","state":"cancelled","attempt":0,"reason":"superseded","error":null}');
INSERT INTO "events" VALUES(4,1,1004.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
INSERT INTO "events" VALUES(4,2,1005.0,0,'{"type":"state_change","previous":"queued","state":"running","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(4,3,1006.0,0,'{"type":"state_change","previous":"running","state":"completed","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(5,1,1005.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
INSERT INTO "events" VALUES(5,2,1006.0,0,'{"type":"state_change","previous":"queued","state":"running","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(5,3,1007.0,0,'{"type":"state_change","previous":"running","state":"queued","attempt":1,"reason":"","error":null}');
INSERT INTO "events" VALUES(5,4,1008.0,0,'{"type":"state_change","previous":"queued","state":"running","attempt":2,"reason":"","error":null}');
INSERT INTO "events" VALUES(5,5,1009.0,1,'{"type":"progress","stage":"generating","task":"digits","samples_done":7,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":null,"batch_size":0,"output_tokens":0}');
INSERT INTO "events" VALUES(6,1,1006.0,0,'{"type":"state_change","previous":null,"state":"queued","attempt":0,"reason":"","error":null}');
CREATE TABLE jobs (
        position INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        request_id TEXT UNIQUE,
        state TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        end_time REAL,
        job TEXT NOT NULL,
        task_results TEXT NOT NULL,
        result TEXT NOT NULL
    );
INSERT INTO "jobs" VALUES(1,'job-1','6f1c','completed',6,1006.0,'{"job_id":"job-1","spec":{"type":"evaluation_spec","model":"idefics3","tasks":["digits","letters"],"model_args":{"pretrained":"checkpoint-100"},"num_fewshot":null,"batch_size":null,"max_batch_size":null,"device":"","limit_count":null,"limit_fraction":0.5,"offset":0,"gen_kwargs":{"max_new_tokens":16,"temperature":0.5},"log_samples":true,"predict_only":false,"num_gpus":2,"output_dir":"","seeds":{"python":0,"numpy":1234,"torch":1234,"fewshot":1234},"repeats":1,"system_instruction":"","apply_chat_template":false,"fewshot_as_multiturn":false,"reasoning_tags":"","force_simple":false,"trust_remote_code":false,"use_cache":"","agentic_trace_mode":"basic","baseline":"","max_tokens":0,"run_timeout":3600.0,"include_path":[]},"state":"completed","create_time":1001.0,"order":1,"request_id":"6f1c","request_digest":"d1","labels":{"run":"sft-7","step":"1200"},"priority":5,"attempt":1,"sequence":6,"start_time":1002.0,"end_time":1006.0,"devices":["cuda:0","cuda:1"],"progress":{"type":"progress","stage":"generating","task":"digits","samples_done":40,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":null,"batch_size":0,"output_tokens":0},"task_results":[],"result":null,"error":null,"cancel_reason":""}','[{"type":"task_result","task":"digits","version":"1","metrics":[{"name":"exact_match","filter":"none","value":0.75,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":100}],"samples_asked":100,"samples_scored":100,"samples_errored":0,"elapsed_seconds":2.5},{"type":"task_result","task":"letters","version":"1","metrics":[{"name":"exact_match","filter":"none","value":NaN,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":100}],"samples_asked":100,"samples_scored":100,"samples_errored":0,"elapsed_seconds":2.5}]','{"type":"evaluation_result","task_results":[{"type":"task_result","task":"digits","version":"1","metrics":[{"name":"exact_match","filter":"none","value":0.5,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":100}],"samples_asked":100,"samples_scored":100,"samples_errored":0,"elapsed_seconds":2.5}],"group_results":[{"group":"all","version":"1","metrics":[{"name":"exact_match","filter":"none","value":0.5,"standard_error":null,"confidence_lower":null,"confidence_upper":null,"confidence_level":0.95,"confidence_method":"","higher_is_better":null,"sample_count":0}],"members":["digits"]}],"results_json":"{\"results\": {}}","manifest_json":"","results_path":"","samples_paths":[],"stage_seconds":{"generate":1.5},"samples_per_second":0.0,"output_tokens_per_second":0.0,"input_tokens":7,"output_tokens":0}');
INSERT INTO "jobs" VALUES(2,'job-2',NULL,'failed',4,1005.0,'{"job_id":"job-2","spec":{"type":"evaluation_spec","model":"idefics3","tasks":["digits"],"model_args":{"pretrained":"checkpoint-100"},"num_fewshot":null,"batch_size":null,"max_batch_size":null,"device":"","limit_count":null,"limit_fraction":null,"offset":0,"gen_kwargs":{},"log_samples":true,"predict_only":false,"num_gpus":1,"output_dir":"","seeds":{"python":0,"numpy":1234,"torch":1234,"fewshot":1234},"repeats":1,"system_instruction":"","apply_chat_template":false,"fewshot_as_multiturn":false,"reasoning_tags":"","force_simple":false,"trust_remote_code":false,"use_cache":"","agentic_trace_mode":"basic","baseline":"","max_tokens":0,"run_timeout":null,"include_path":[]},"state":"failed","create_time":1002.0,"order":2,"request_id":"","request_digest":"","labels":{},"priority":0,"attempt":1,"sequence":4,"start_time":1003.0,"end_time":1005.0,"devices":[],"progress":{"type":"progress","stage":"generating","task":"digits","samples_done":3,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":12.5,"batch_size":0,"output_tokens":0},"task_results":[],"result":null,"error":{"code":"worker_died","reason":"WORKER_KILLED","message":"the worker was killed","details":{"signal":"SIGKILL"},"log_tail":"… last line"},"cancel_reason":""}','[]','null');
INSERT INTO "jobs" VALUES(3,'job-3',NULL,'cancelled',2,1004.0,'{"job_id":"job-3","spec":{"type":"evaluation_spec","model":"idefics3","tasks":["digits"],"model_args":{"pretrained":"checkpoint-100"},"num_fewshot":null,"batch_size":null,"max_batch_size":null,"device":"","limit_count":null,"limit_fraction":null,"offset":0,"gen_kwargs":{},"log_samples":true,"predict_only":false,"num_gpus":1,"output_dir":"","seeds":{"python":0,"numpy":1234,"torch":1234,"fewshot":1234},"repeats":1,"system_instruction":"","apply_chat_template":false,"fewshot_as_multiturn":false,"reasoning_tags":"","force_simple":false,"trust_remote_code":false,"use_cache":"","agentic_trace_mode":"basic","baseline":"","max_tokens":0,"run_timeout":null,"include_path":[]},"state":"cancelled","create_time":1003.0,"order":3,"request_id":"","request_digest":"","labels":{},"priority":0,"attempt":0,"sequence":2,"start_time":null,"end_time":1004.0,"devices":[],"progress":null,"task_results":[],"result":null,"error":null,"cancel_reason":"superseded"}','[]','null');
INSERT INTO "jobs" VALUES(4,'job-4',NULL,'completed',3,1006.0,'{"job_id":"job-4","spec":{"type":"merge_spec","checkpoint_path":"checkpoint","output_path":"merged","checkpoint_kind":"ema"},"state":"completed","create_time":1004.0,"order":4,"request_id":"","request_digest":"","labels":{},"priority":0,"attempt":1,"sequence":3,"start_time":1005.0,"end_time":1006.0,"devices":[],"progress":null,"task_results":[],"result":null,"error":null,"cancel_reason":""}','[]','{"type":"merge_result","output_path":"merged","size_bytes":123456}');
INSERT INTO "jobs" VALUES(5,'job-5',NULL,'running',5,NULL,'{"job_id":"job-5","spec":{"type":"evaluation_spec","model":"idefics3","tasks":["digits"],"model_args":{"pretrained":"checkpoint-100"},"num_fewshot":null,"batch_size":null,"max_batch_size":null,"device":"","limit_count":null,"limit_fraction":null,"offset":0,"gen_kwargs":{},"log_samples":true,"predict_only":false,"num_gpus":1,"output_dir":"","seeds":{"python":0,"numpy":1234,"torch":1234,"fewshot":1234},"repeats":1,"system_instruction":"","apply_chat_template":false,"fewshot_as_multiturn":false,"reasoning_tags":"","force_simple":false,"trust_remote_code":false,"use_cache":"","agentic_trace_mode":"basic","baseline":"","max_tokens":0,"run_timeout":null,"include_path":[]},"state":"running","create_time":1005.0,"order":5,"request_id":"","request_digest":"","labels":{},"priority":0,"attempt":2,"sequence":5,"start_time":1008.0,"end_time":null,"devices":[],"progress":{"type":"progress","stage":"generating","task":"digits","samples_done":7,"samples_total":100,"task_samples_done":0,"task_samples_total":0,"samples_resumed":0,"samples_errored":0,"samples_per_second":0.0,"remaining_seconds":null,"batch_size":0,"output_tokens":0},"task_results":[],"result":null,"error":null,"cancel_reason":""}','[]','null');
INSERT INTO "jobs" VALUES(6,'job-6',NULL,'queued',1,NULL,'{"job_id":"job-6","spec":{"type":"evaluation_spec","model":"idefics3","tasks":["digits"],"model_args":{"pretrained":"checkpoint-100"},"num_fewshot":null,"batch_size":null,"max_batch_size":null,"device":"","limit_count":null,"limit_fraction":null,"offset":0,"gen_kwargs":{},"log_samples":true,"predict_only":false,"num_gpus":1,"output_dir":"","seeds":{"python":0,"numpy":1234,"torch":1234,"fewshot":1234},"repeats":1,"system_instruction":"","apply_chat_template":false,"fewshot_as_multiturn":false,"reasoning_tags":"","force_simple":false,"trust_remote_code":false,"use_cache":"","agentic_trace_mode":"basic","baseline":"","max_tokens":0,"run_timeout":null,"include_path":[]},"state":"queued","create_time":1006.0,"order":6,"request_id":"","request_digest":"","labels":{"run":"sft-7"},"priority":0,"attempt":0,"sequence":1,"start_time":null,"end_time":null,"devices":[],"progress":null,"task_results":[],"result":null,"error":null,"cancel_reason":""}','[]','null');
CREATE TABLE labels (
        position INTEGER NOT NULL REFERENCES jobs (position) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (position, key)
    ) WITHOUT ROWID
    ;
INSERT INTO "labels" VALUES(1,'run','sft-7');
INSERT INTO "labels" VALUES(6,'run','sft-7');
INSERT INTO "labels" VALUES(1,'step','1200');
CREATE INDEX jobs_by_state ON jobs (state, position);
CREATE INDEX labels_by_value ON labels (key, value, position);
CREATE INDEX superseded_events ON events (position, sequence) WHERE supersedable;
PRAGMA user_version = 2;
COMMIT;
