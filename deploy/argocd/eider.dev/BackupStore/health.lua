-- Health of a BackupStore for Argo CD: Degraded while archives can be neither written nor read.
-- It never says Healthy before Eider has seen this generation of the object.
local health = { status = "Progressing", message = "waiting for Eider" }

if obj.status == nil then
  return health
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end

local function say(status, condition)
  return { status = status, message = condition.message }
end

if holds("Stalled") then
  return say("Degraded", conditions.Stalled)
end
if holds("Ready") then
  return say("Healthy", conditions.Ready)
end
if conditions.Ready ~= nil then
  health.message = conditions.Ready.message
end
return health
