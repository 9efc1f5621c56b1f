from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BlockClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLOCK_CLASS_UNKNOWN: _ClassVar[BlockClass]
    BLOCK_CLASS_SYSTEM: _ClassVar[BlockClass]
    BLOCK_CLASS_TOOLS: _ClassVar[BlockClass]
    BLOCK_CLASS_USER: _ClassVar[BlockClass]
    BLOCK_CLASS_TOOL_RESULT: _ClassVar[BlockClass]
    BLOCK_CLASS_ANSWER: _ClassVar[BlockClass]
    BLOCK_CLASS_THINKING: _ClassVar[BlockClass]
BLOCK_CLASS_UNKNOWN: BlockClass
BLOCK_CLASS_SYSTEM: BlockClass
BLOCK_CLASS_TOOLS: BlockClass
BLOCK_CLASS_USER: BlockClass
BLOCK_CLASS_TOOL_RESULT: BlockClass
BLOCK_CLASS_ANSWER: BlockClass
BLOCK_CLASS_THINKING: BlockClass

class ClientMessage(_message.Message):
    __slots__ = ("request", "hello", "open", "match", "fetch", "reserve", "seal", "release", "renew", "read_failed", "pin", "prefetch", "end_turn", "end_session", "ping", "persist", "stage", "released")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    READ_FAILED_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    END_TURN_FIELD_NUMBER: _ClassVar[int]
    END_SESSION_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PERSIST_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    request: int
    hello: Hello
    open: Open
    match: Match
    fetch: Fetch
    reserve: Reserve
    seal: Seal
    release: Release
    renew: Renew
    read_failed: ReadFailed
    pin: Pin
    prefetch: Prefetch
    end_turn: EndTurn
    end_session: EndSession
    ping: Ping
    persist: Persist
    stage: Stage
    released: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., match: _Optional[_Union[Match, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ..., reserve: _Optional[_Union[Reserve, _Mapping]] = ..., seal: _Optional[_Union[Seal, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., renew: _Optional[_Union[Renew, _Mapping]] = ..., read_failed: _Optional[_Union[ReadFailed, _Mapping]] = ..., pin: _Optional[_Union[Pin, _Mapping]] = ..., prefetch: _Optional[_Union[Prefetch, _Mapping]] = ..., end_turn: _Optional[_Union[EndTurn, _Mapping]] = ..., end_session: _Optional[_Union[EndSession, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., persist: _Optional[_Union[Persist, _Mapping]] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., released: _Optional[_Iterable[int]] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("request", "hello", "open", "match", "fetch", "reserve", "seal", "renew", "pin", "pong", "landed", "fault", "persist")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    LANDED_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    PERSIST_FIELD_NUMBER: _ClassVar[int]
    request: int
    hello: HelloReply
    open: OpenReply
    match: MatchReply
    fetch: FetchReply
    reserve: ReserveReply
    seal: SealReply
    renew: RenewReply
    pin: PinReply
    pong: Ping
    landed: Landed
    fault: Fault
    persist: PersistReply
    def __init__(self, request: _Optional[int] = ..., hello: _Optional[_Union[HelloReply, _Mapping]] = ..., open: _Optional[_Union[OpenReply, _Mapping]] = ..., match: _Optional[_Union[MatchReply, _Mapping]] = ..., fetch: _Optional[_Union[FetchReply, _Mapping]] = ..., reserve: _Optional[_Union[ReserveReply, _Mapping]] = ..., seal: _Optional[_Union[SealReply, _Mapping]] = ..., renew: _Optional[_Union[RenewReply, _Mapping]] = ..., pin: _Optional[_Union[PinReply, _Mapping]] = ..., pong: _Optional[_Union[Ping, _Mapping]] = ..., landed: _Optional[_Union[Landed, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., persist: _Optional[_Union[PersistReply, _Mapping]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "client", "admission")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client: str
    admission: bytes
    def __init__(self, protocol: _Optional[int] = ..., client: _Optional[str] = ..., admission: _Optional[bytes] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol", "session", "boot", "version", "tiers", "entry")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: int
    boot: bytes
    version: str
    tiers: _containers.RepeatedCompositeFieldContainer[TierInfo]
    entry: int
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[int] = ..., boot: _Optional[bytes] = ..., version: _Optional[str] = ..., tiers: _Optional[_Iterable[_Union[TierInfo, _Mapping]]] = ..., entry: _Optional[int] = ...) -> None: ...

class TierInfo(_message.Message):
    __slots__ = ("name", "medium", "mapped")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEDIUM_FIELD_NUMBER: _ClassVar[int]
    MAPPED_FIELD_NUMBER: _ClassVar[int]
    name: str
    medium: str
    mapped: bool
    def __init__(self, name: _Optional[str] = ..., medium: _Optional[str] = ..., mapped: bool = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("name", "layout")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    layout: Layout
    def __init__(self, name: _Optional[str] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("namespace", "region_slots")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REGION_SLOTS_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    region_slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, namespace: _Optional[int] = ..., region_slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("model", "revision", "weights_digest", "dtype", "block_tokens", "shards", "order", "tenant", "salt", "groups")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    model: str
    revision: str
    weights_digest: str
    dtype: str
    block_tokens: int
    shards: int
    order: str
    tenant: str
    salt: str
    groups: _containers.RepeatedCompositeFieldContainer[LayerGroup]
    def __init__(self, model: _Optional[str] = ..., revision: _Optional[str] = ..., weights_digest: _Optional[str] = ..., dtype: _Optional[str] = ..., block_tokens: _Optional[int] = ..., shards: _Optional[int] = ..., order: _Optional[str] = ..., tenant: _Optional[str] = ..., salt: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[LayerGroup, _Mapping]]] = ...) -> None: ...

class LayerGroup(_message.Message):
    __slots__ = ("kind", "layers", "kv_heads", "head_size", "planes", "window_tokens", "state_bytes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    KV_HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    layers: int
    kv_heads: int
    head_size: int
    planes: int
    window_tokens: int
    state_bytes: int
    def __init__(self, kind: _Optional[str] = ..., layers: _Optional[int] = ..., kv_heads: _Optional[int] = ..., head_size: _Optional[int] = ..., planes: _Optional[int] = ..., window_tokens: _Optional[int] = ..., state_bytes: _Optional[int] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("namespace", "keys", "hold", "apart", "count_missing")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    COUNT_MISSING_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    hold: bool
    apart: bool
    count_missing: bool
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., hold: bool = ..., apart: bool = ..., count_missing: bool = ...) -> None: ...

class MatchReply(_message.Message):
    __slots__ = ("blocks", "by_tier", "lease", "term_ns", "further")
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BY_TIER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TERM_NS_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    by_tier: _containers.RepeatedScalarFieldContainer[int]
    lease: int
    term_ns: int
    further: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, blocks: _Optional[int] = ..., by_tier: _Optional[_Iterable[int]] = ..., lease: _Optional[int] = ..., term_ns: _Optional[int] = ..., further: _Optional[_Iterable[int]] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ("namespace", "keys", "wait_ns", "reserve", "part", "stage_blocks", "first", "apart")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    STAGE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    wait_ns: int
    reserve: bool
    part: int
    stage_blocks: int
    first: int
    apart: bool
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., wait_ns: _Optional[int] = ..., reserve: bool = ..., part: _Optional[int] = ..., stage_blocks: _Optional[int] = ..., first: _Optional[int] = ..., apart: bool = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("lease", "first", "blocks")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    lease: int
    first: int
    blocks: int
    def __init__(self, lease: _Optional[int] = ..., first: _Optional[int] = ..., blocks: _Optional[int] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("lease", "fence", "blocks", "run_tier", "run_slot", "run_count", "run_pending", "reserved", "queued_bytes", "term_ns")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RUN_TIER_FIELD_NUMBER: _ClassVar[int]
    RUN_SLOT_FIELD_NUMBER: _ClassVar[int]
    RUN_COUNT_FIELD_NUMBER: _ClassVar[int]
    RUN_PENDING_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TERM_NS_FIELD_NUMBER: _ClassVar[int]
    lease: int
    fence: int
    blocks: int
    run_tier: _containers.RepeatedScalarFieldContainer[int]
    run_slot: _containers.RepeatedScalarFieldContainer[int]
    run_count: _containers.RepeatedScalarFieldContainer[int]
    run_pending: _containers.RepeatedScalarFieldContainer[int]
    reserved: ReserveReply
    queued_bytes: int
    term_ns: int
    def __init__(self, lease: _Optional[int] = ..., fence: _Optional[int] = ..., blocks: _Optional[int] = ..., run_tier: _Optional[_Iterable[int]] = ..., run_slot: _Optional[_Iterable[int]] = ..., run_count: _Optional[_Iterable[int]] = ..., run_pending: _Optional[_Iterable[int]] = ..., reserved: _Optional[_Union[ReserveReply, _Mapping]] = ..., queued_bytes: _Optional[int] = ..., term_ns: _Optional[int] = ...) -> None: ...

class Landed(_message.Message):
    __slots__ = ("lease", "indices", "slots", "failed", "declined")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    lease: int
    indices: _containers.RepeatedScalarFieldContainer[int]
    slots: _containers.RepeatedScalarFieldContainer[int]
    failed: _containers.RepeatedScalarFieldContainer[int]
    declined: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lease: _Optional[int] = ..., indices: _Optional[_Iterable[int]] = ..., slots: _Optional[_Iterable[int]] = ..., failed: _Optional[_Iterable[int]] = ..., declined: _Optional[_Iterable[int]] = ...) -> None: ...

class Reserve(_message.Message):
    __slots__ = ("namespace", "keys", "part", "wait_ns", "apart")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    part: int
    wait_ns: int
    apart: bool
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., part: _Optional[int] = ..., wait_ns: _Optional[int] = ..., apart: bool = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ("lease", "grant_index", "grant_slot", "grant_count", "declined")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    GRANT_INDEX_FIELD_NUMBER: _ClassVar[int]
    GRANT_SLOT_FIELD_NUMBER: _ClassVar[int]
    GRANT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    lease: int
    grant_index: _containers.RepeatedScalarFieldContainer[int]
    grant_slot: _containers.RepeatedScalarFieldContainer[int]
    grant_count: _containers.RepeatedScalarFieldContainer[int]
    declined: int
    def __init__(self, lease: _Optional[int] = ..., grant_index: _Optional[_Iterable[int]] = ..., grant_slot: _Optional[_Iterable[int]] = ..., grant_count: _Optional[_Iterable[int]] = ..., declined: _Optional[int] = ...) -> None: ...

class Seal(_message.Message):
    __slots__ = ("lease", "blocks")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    lease: int
    blocks: int
    def __init__(self, lease: _Optional[int] = ..., blocks: _Optional[int] = ...) -> None: ...

class SealReply(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    def __init__(self, lease: _Optional[int] = ...) -> None: ...

class Renew(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    def __init__(self, lease: _Optional[int] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("term_ns",)
    TERM_NS_FIELD_NUMBER: _ClassVar[int]
    term_ns: int
    def __init__(self, term_ns: _Optional[int] = ...) -> None: ...

class ReadFailed(_message.Message):
    __slots__ = ("lease", "index", "unanswered")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    lease: int
    index: int
    unanswered: bool
    def __init__(self, lease: _Optional[int] = ..., index: _Optional[int] = ..., unanswered: bool = ...) -> None: ...

class Persist(_message.Message):
    __slots__ = ("namespace", "keys", "wait_ns", "apart")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    APART_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    wait_ns: int
    apart: bool
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., wait_ns: _Optional[int] = ..., apart: bool = ...) -> None: ...

class PersistReply(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("namespace", "keys", "ttl_ns")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TTL_NS_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    ttl_ns: int
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., ttl_ns: _Optional[int] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class Prefetch(_message.Message):
    __slots__ = ("namespace", "keys")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ...) -> None: ...

class EndTurn(_message.Message):
    __slots__ = ("namespace", "keys", "classes", "tool_call", "expected_ns")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_NS_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    classes: _containers.RepeatedScalarFieldContainer[BlockClass]
    tool_call: bool
    expected_ns: int
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., classes: _Optional[_Iterable[_Union[BlockClass, str]]] = ..., tool_call: bool = ..., expected_ns: _Optional[int] = ...) -> None: ...

class EndSession(_message.Message):
    __slots__ = ("namespace", "keys", "shared")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    keys: bytes
    shared: int
    def __init__(self, namespace: _Optional[int] = ..., keys: _Optional[bytes] = ..., shared: _Optional[int] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("kind", "message", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("session", "lease", "first", "blocks", "part")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    session: int
    lease: int
    first: int
    blocks: int
    part: int
    def __init__(self, session: _Optional[int] = ..., lease: _Optional[int] = ..., first: _Optional[int] = ..., blocks: _Optional[int] = ..., part: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("index", "offset", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    offset: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteChunk(_message.Message):
    __slots__ = ("session", "lease", "index", "offset", "data")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    session: int
    lease: int
    index: int
    offset: int
    data: bytes
    def __init__(self, session: _Optional[int] = ..., lease: _Optional[int] = ..., index: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("version", "boot", "pid", "uptime_ns", "tiers", "namespaces", "routes", "sessions", "leases", "leased_blocks", "waiting", "listens")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_NS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LEASED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    LISTENS_FIELD_NUMBER: _ClassVar[int]
    version: str
    boot: bytes
    pid: int
    uptime_ns: int
    tiers: _containers.RepeatedCompositeFieldContainer[TierStatus]
    namespaces: _containers.RepeatedCompositeFieldContainer[NamespaceStatus]
    routes: _containers.RepeatedCompositeFieldContainer[RouteStatus]
    sessions: int
    leases: int
    leased_blocks: int
    waiting: int
    listens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., boot: _Optional[bytes] = ..., pid: _Optional[int] = ..., uptime_ns: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[TierStatus, _Mapping]]] = ..., namespaces: _Optional[_Iterable[_Union[NamespaceStatus, _Mapping]]] = ..., routes: _Optional[_Iterable[_Union[RouteStatus, _Mapping]]] = ..., sessions: _Optional[int] = ..., leases: _Optional[int] = ..., leased_blocks: _Optional[int] = ..., waiting: _Optional[int] = ..., listens: _Optional[_Iterable[str]] = ...) -> None: ...

class TierStatus(_message.Message):
    __slots__ = ("name", "medium", "online", "cause", "bytes_max", "bytes_lent", "bytes_used", "blocks", "evictions", "write_queue", "bytes_written", "bytes_scrubbed", "state", "faults", "payload_bytes_written", "write_bytes_per_day", "write_budget_bytes", "blocks_unbudgeted", "blocks_given_up")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEDIUM_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    BYTES_LENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    WRITE_QUEUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    BYTES_SCRUBBED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    WRITE_BYTES_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    WRITE_BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_UNBUDGETED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    name: str
    medium: str
    online: bool
    cause: str
    bytes_max: int
    bytes_lent: int
    bytes_used: int
    blocks: int
    evictions: int
    write_queue: int
    bytes_written: int
    bytes_scrubbed: int
    state: str
    faults: int
    payload_bytes_written: int
    write_bytes_per_day: int
    write_budget_bytes: int
    blocks_unbudgeted: int
    blocks_given_up: int
    def __init__(self, name: _Optional[str] = ..., medium: _Optional[str] = ..., online: bool = ..., cause: _Optional[str] = ..., bytes_max: _Optional[int] = ..., bytes_lent: _Optional[int] = ..., bytes_used: _Optional[int] = ..., blocks: _Optional[int] = ..., evictions: _Optional[int] = ..., write_queue: _Optional[int] = ..., bytes_written: _Optional[int] = ..., bytes_scrubbed: _Optional[int] = ..., state: _Optional[str] = ..., faults: _Optional[int] = ..., payload_bytes_written: _Optional[int] = ..., write_bytes_per_day: _Optional[int] = ..., write_budget_bytes: _Optional[int] = ..., blocks_unbudgeted: _Optional[int] = ..., blocks_given_up: _Optional[int] = ...) -> None: ...

class NamespaceStatus(_message.Message):
    __slots__ = ("name", "model", "block_bytes", "block_tokens", "blocks", "requests", "tokens_asked", "tokens_hit", "tokens_missed", "blocks_published", "blocks_declined", "corrupt_blocks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_ASKED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_HIT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_MISSED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_DECLINED_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    block_bytes: int
    block_tokens: int
    blocks: int
    requests: int
    tokens_asked: int
    tokens_hit: _containers.RepeatedScalarFieldContainer[int]
    tokens_missed: int
    blocks_published: int
    blocks_declined: int
    corrupt_blocks: int
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., block_bytes: _Optional[int] = ..., block_tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., requests: _Optional[int] = ..., tokens_asked: _Optional[int] = ..., tokens_hit: _Optional[_Iterable[int]] = ..., tokens_missed: _Optional[int] = ..., blocks_published: _Optional[int] = ..., blocks_declined: _Optional[int] = ..., corrupt_blocks: _Optional[int] = ...) -> None: ...

class RouteStatus(_message.Message):
    __slots__ = ("source", "target", "blocks", "bytes", "busy_ns", "failed")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BUSY_NS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    blocks: int
    bytes: int
    busy_ns: int
    failed: int
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., blocks: _Optional[int] = ..., bytes: _Optional[int] = ..., busy_ns: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class DescriptorRequest(_message.Message):
    __slots__ = ("admission", "fences", "arena", "segment")
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    FENCES_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    admission: Admission
    fences: Fences
    arena: Arena
    segment: Segment
    def __init__(self, admission: _Optional[_Union[Admission, _Mapping]] = ..., fences: _Optional[_Union[Fences, _Mapping]] = ..., arena: _Optional[_Union[Arena, _Mapping]] = ..., segment: _Optional[_Union[Segment, _Mapping]] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Fences(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Arena(_message.Message):
    __slots__ = ("namespace", "tier")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    tier: int
    def __init__(self, namespace: _Optional[int] = ..., tier: _Optional[int] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("namespace", "tier", "region")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    namespace: int
    tier: int
    region: int
    def __init__(self, namespace: _Optional[int] = ..., tier: _Optional[int] = ..., region: _Optional[int] = ...) -> None: ...

class DescriptorReply(_message.Message):
    __slots__ = ("token", "bytes", "slot_stride", "slot_header", "first_slot", "refused", "cuda")
    class CudaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: bytes
        def __init__(self, key: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SLOT_STRIDE_FIELD_NUMBER: _ClassVar[int]
    SLOT_HEADER_FIELD_NUMBER: _ClassVar[int]
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CUDA_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    bytes: int
    slot_stride: int
    slot_header: int
    first_slot: int
    refused: str
    cuda: _containers.ScalarMap[int, bytes]
    def __init__(self, token: _Optional[bytes] = ..., bytes: _Optional[int] = ..., slot_stride: _Optional[int] = ..., slot_header: _Optional[int] = ..., first_slot: _Optional[int] = ..., refused: _Optional[str] = ..., cuda: _Optional[_Mapping[int, bytes]] = ...) -> None: ...
