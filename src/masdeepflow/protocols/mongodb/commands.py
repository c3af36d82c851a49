"""Names: of commands, of what goes with which, and of error codes.

Source: https://www.mongodb.com/docs/manual/reference/command/ and .../reference/error-codes/.
"""

from __future__ import annotations

from masdeepflow.protocols.mongodb.wire import Opcode

__all__ = ["COMMANDS", "COMPRESSORS", "ERRORS", "LEGACY", "OF_COLLECTIONS", "SEQUENCES"]

_OF_COLLECTIONS = """
aggregate analyze collMod collStats collstats compact convertToCapped count create createIndexes
createSearchIndexes delete deleteIndexes distinct drop dropIndexes dropSearchIndex explain find
findAndModify findandmodify geoNear geoSearch getMore group insert killCursors listIndexes listSearchIndexes
mapReduce mapreduce parallelCollectionScan planCacheClear planCacheClearFilters planCacheListFilters
planCacheSetFilter reIndex touch update updateSearchIndex validate
"""
_OTHERS = """
abortTransaction addShard addShardToZone appendOplogNote applyOps authenticate balancerStart balancerStatus
balancerStop buildInfo buildinfo bulkWrite cleanupReshardCollection clearJumboFlag clone cloneCollection
cloneCollectionAsCapped commitTransaction configureFailPoint connectionStatus connPoolStats connPoolSync
coordinateCommitTransaction copydb createRole createUser currentOp dataSize dbHash dbStats dbstats
dropAllRolesFromDatabase dropAllUsersFromDatabase dropConnections dropDatabase dropRole dropUser
enableSharding endSessions eval filemd5 flushRouterConfig forceerror fsync fsyncUnlock getClusterParameter
getCmdLineOpts getDefaultRWConcern getDiagnosticData getLog getParameter getPrevError getShardMap
getShardVersion getlasterror getLastError getnonce grantPrivilegesToRole grantRolesToRole grantRolesToUser
hello hostInfo invalidateUserCache isMaster ismaster isdbgrid killAllSessions killAllSessionsByPattern
killOp killSessions listCollections listCommands listDatabases listShards lockInfo logRotate logout
moveChunk moveCollection movePrimary moveRange mergeChunks netstat ping prepareTransaction profile
refineCollectionShardKey refreshSessions removeShard removeShardFromZone renameCollection
replSetAbortPrimaryCatchUp replSetFreeze replSetGetConfig replSetGetRBID replSetGetStatus replSetHeartbeat
replSetInitiate replSetMaintenance replSetReconfig replSetRequestVotes replSetResizeOplog replSetStepDown
replSetStepUp replSetSyncFrom replSetUpdatePosition reshardCollection resetError revokePrivilegesFromRole
revokeRolesFromRole revokeRolesFromUser rolesInfo rotateCertificates saslContinue saslStart serverStatus
setDefaultRWConcern setClusterParameter setFeatureCompatibilityVersion setIndexCommitQuorum setParameter
setShardVersion shardCollection shardConnPoolStats shardingState shutdown split splitChunk splitVector
startSession top unshardCollection untrackUnshardedCollection updateRole updateUser updateZoneKeyRange
usersInfo validateDBMetadata voteCommitIndexBuild waitForFailPoint whatsmyuri
"""

OF_COLLECTIONS = frozenset(_OF_COLLECTIONS.split())
"""Commands whose first value, if it is a text, is the name of a collection. Of others it may be a user's."""

COMMANDS = OF_COLLECTIONS | frozenset(_OTHERS.split())
"""Names that are shown as operations: clients may send any."""

LEGACY = {
    Opcode.UPDATE: "update",
    Opcode.INSERT: "insert",
    Opcode.QUERY: "find",
    Opcode.GET_MORE: "getMore",
    Opcode.DELETE: "delete",
    Opcode.KILL_CURSORS: "killCursors",
}
"""What the messages before OP_MSG do."""

SEQUENCES = {"documents": "insert", "updates": "update", "deletes": "delete", "ops": "bulkWrite"}
"""Name of a sequence of documents -> command, where this comes behind it and was not captured."""

COMPRESSORS = {0: "noop", 1: "snappy", 2: "zlib", 3: "zstd"}

ERRORS = {
    1: "InternalError",
    2: "BadValue",
    6: "HostUnreachable",
    7: "HostNotFound",
    8: "UnknownError",
    9: "FailedToParse",
    11: "UserNotFound",
    13: "Unauthorized",
    14: "TypeMismatch",
    17: "ProtocolError",
    18: "AuthenticationFailed",
    20: "IllegalOperation",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    40: "ConflictingUpdateOperators",
    43: "CursorNotFound",
    48: "NamespaceExists",
    50: "MaxTimeMSExpired",
    52: "DollarPrefixedFieldName",
    54: "NotSingleValueField",
    56: "EmptyFieldName",
    57: "DottedFieldName",
    59: "CommandNotFound",
    61: "ShardKeyNotFound",
    63: "StaleShardVersion",
    64: "WriteConcernFailed",
    66: "ImmutableField",
    67: "CannotCreateIndex",
    68: "IndexAlreadyExists",
    72: "InvalidOptions",
    73: "InvalidNamespace",
    79: "UnknownReplWriteConcern",
    85: "IndexOptionsConflict",
    86: "IndexKeySpecsConflict",
    89: "NetworkTimeout",
    91: "ShutdownInProgress",
    96: "OperationFailed",
    100: "UnsatisfiableWriteConcern",
    112: "WriteConflict",
    115: "CommandNotSupported",
    121: "DocumentValidationFailure",
    125: "CommandFailed",
    133: "FailedToSatisfyReadPreference",
    134: "ReadConcernMajorityNotAvailableYet",
    136: "CappedPositionLost",
    166: "CommandNotSupportedOnView",
    189: "PrimarySteppedDown",
    206: "NoSuchSession",
    211: "KeyNotFound",
    225: "TransactionTooOld",
    237: "CursorKilled",
    244: "TransactionAborted",
    246: "SnapshotUnavailable",
    251: "NoSuchTransaction",
    256: "TransactionCommitted",
    257: "TransactionTooLarge",
    262: "ExceededTimeLimit",
    263: "OperationNotSupportedInTransaction",
    286: "ChangeStreamHistoryLost",
    290: "TransactionExceededLifetimeLimitSeconds",
    292: "QueryExceededMemoryLimitNoDiskUseAllowed",
    313: "StaleChunkHistory",
    334: "UnsupportedOpQueryCommand",
    391: "ReauthenticationRequired",
    9001: "SocketException",
    10058: "LegacyNotPrimary",
    10107: "NotWritablePrimary",
    11000: "DuplicateKey",
    11600: "InterruptedAtShutdown",
    11601: "Interrupted",
    11602: "InterruptedDueToReplStateChange",
    13435: "NotPrimaryNoSecondaryOk",
    13436: "NotPrimaryOrSecondary",
}
"""Error code -> its name: replies to writes do not give it, others give it behind a message of any length."""
