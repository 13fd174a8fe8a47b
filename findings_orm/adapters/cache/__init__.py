"""A shared cache in front of any store. See `RedisCacheAdapter`."""

from findings_orm.adapters.cache.adapter import RedisCacheAdapter
from findings_orm.adapters.cache.options import CacheOptions
from findings_orm.adapters.cache.statistics import EVENTS

__all__ = ["EVENTS", "CacheOptions", "RedisCacheAdapter"]
