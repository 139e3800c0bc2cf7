-- A function of the signature that hand-made coordinators call, for one machine. It stands in the first
-- schema of the search path. Each job of `p_job_data` is {"queue", "data"}; what it says under `options`
-- goes along as the header `job-options`.
create or replace function initialize_fsm_with_outbox(
  p_entity_id uuid,
  p_user_id uuid,
  p_organization_id uuid,
  p_idempotency_key text,
  p_initiated_by text,
  p_initial_state text,
  p_job_data jsonb,
  p_metadata jsonb default '{}'
) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  messages json;
begin
  if p_job_data is null or jsonb_typeof(p_job_data) <> 'array'
     or exists (select from jsonb_array_elements(p_job_data) j
                 where jsonb_typeof(j) <> 'object' or jsonb_typeof(j -> 'queue') is distinct from 'string'
                    or j - array['queue', 'data', 'options'] <> '{}') then
    perform @schema@.refuse_field('p_job_data', 'an array of objects with a queue, and data and options where there are some',
                                  coalesce(p_job_data::text, 'null'));
  end if;
  select coalesce(json_agg(json_strip_nulls(json_build_object(
           'topic', j ->> 'queue',
           'payload_base64', encode(convert_to(coalesce(j -> 'data', '{}')::text, 'UTF8'), 'base64'),
           'content_type', 'application/json',
           'headers', case when j ? 'options' then json_build_object('job-options', (j -> 'options')::text) end)) order by nth), '[]')
    into messages
    from jsonb_array_elements(p_job_data) with ordinality t (j, nth);
  return @schema@.start_machine('@machine@', p_entity_id::text, p_initial_state, p_idempotency_key, p_initiated_by,
                                p_user_id::text, p_organization_id::text, messages, coalesce(p_metadata, '{}'));
end
$$;
revoke execute on function initialize_fsm_with_outbox(uuid, uuid, uuid, text, text, text, jsonb, jsonb) from public;
