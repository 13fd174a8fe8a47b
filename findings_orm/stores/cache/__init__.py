"""A shared cache in front of any store. See `RedisCacheAdapter`."""

from findings_orm.stores.cache.adapter import RedisCacheAdapter
from findings_orm.stores.cache.options import CacheOptions
from findings_orm.stores.cache.statistics import EVENTS

__all__ = ["EVENTS", "CacheOptions", "RedisCacheAdapter"]
